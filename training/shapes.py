"""Sizes of the checkpoint, in the form of qwen-tts's configuration classes.

They are small, but suit the engine's compiled layers: widths are multiples of 16, and heads have 64.
"""

from typing import Any

Tree = dict[str, Any]

GROUPS = 7
"""Codes per frame: phonemes, pitch, and five for sound."""

TRIPLES = 1024
"""Size of codebook 0, and of all codebooks, since the codec's classes have one size for all."""

CODES = 512
"""Codes used in each of the other codebooks; the code predictor only knows these."""

CODE_DIM = 64
"""Size of a code's vector in the encoder."""

DECODED_DIM = 144
"""Size of a code's vector in the decoder: describing the sound of a pitch takes more numbers than identifying it."""

TALKER_WIDTH = 256
TEXT_WIDTH = 128

ALIGNMENT_LAYER = 1
"""The talker's layer whose first head is trained to look at the text token that a frame speaks.

A frame's phonemes come two units before its sound, and the space before a word counts as the word. So the head looks at
a word about 80 ms before it is heard.
"""

TEXT_TOKENS = 512
_CONTROL = TRIPLES  # upstream draws none of the last 1024 codes of the talker's vocabulary except the end code


def codec(codebook_size: int = TRIPLES) -> Tree:
    """Configuration of the 12 Hz codec.

    The upsampling rates rise towards the end, where there are few channels. This halves the number of multiplications
    compared with the release's order, 8, 5, 4, 3.
    """
    return {
        "architectures": ["Qwen3TTSTokenizerV2Model"],
        "model_type": "qwen3_tts_tokenizer_12hz",
        "encoder_valid_num_quantizers": GROUPS,
        "input_sample_rate": 24000,
        "output_sample_rate": 24000,
        "encode_downsample_rate": 1920,
        "decode_upsample_rate": 1920,
        "encoder_config": {
            "audio_channels": 1,
            "num_filters": 16,
            "kernel_size": 7,
            "residual_kernel_size": 3,
            "last_kernel_size": 3,
            "num_residual_layers": 1,
            "compress": 2,
            "upsampling_ratios": [8, 6, 5, 4],
            "hidden_size": 192,
            "num_hidden_layers": 2,
            "num_attention_heads": 3,
            "num_key_value_heads": 3,
            "head_dim": 64,
            "intermediate_size": 256,
            "sliding_window": 50,
            "num_quantizers": GROUPS,
            "num_semantic_quantizers": 1,
            "codebook_size": codebook_size,
            "codebook_dim": CODE_DIM,
            "vector_quantization_hidden_dimension": CODE_DIM,
            "upsample_groups": 192,
            "use_causal_conv": True,
            "pad_mode": "constant",
            "layer_scale_initial_scale": 0.1,
        },
        "decoder_config": {
            "latent_dim": 320,
            "codebook_dim": 2 * DECODED_DIM,
            "codebook_size": codebook_size,
            "decoder_dim": 256,
            "hidden_size": 256,
            "intermediate_size": 512,
            "head_dim": 64,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "num_hidden_layers": 2,
            "num_quantizers": GROUPS,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10000,
            "layer_scale_initial_scale": 0.1,
            "max_position_embeddings": 8000,
            "sliding_window": 25,
            "upsample_rates": [4, 4, 5, 6],
            "upsampling_ratios": [2, 2],
        },
    }


def language_model() -> Tree:
    """Configuration of talker, code predictor and speaker encoder."""
    first_control = TRIPLES
    return {
        "architectures": ["Qwen3TTSForConditionalGeneration"],
        "model_type": "qwen3_tts",
        "tokenizer_type": "qwen3_tts_tokenizer_12hz",
        "tts_model_size": "0b6",
        "tts_model_type": "base",
        "prompt_layouts": ["streaming"],  # read by serve_app; the training has no other layout
        "alignment_head": {"layer": ALIGNMENT_LAYER, "head": 0, "frames_ahead": 1},  # read by serve_app
        "im_start_token_id": TEXT_TOKENS - 6,
        "im_end_token_id": TEXT_TOKENS - 5,
        "tts_pad_token_id": TEXT_TOKENS - 3,
        "tts_bos_token_id": TEXT_TOKENS - 2,
        "tts_eos_token_id": TEXT_TOKENS - 1,
        "speaker_encoder_config": {
            "enc_dim": TALKER_WIDTH,
            "sample_rate": 24000,
            "enc_channels": [64, 64, 64, 64, 192],
            "enc_attention_channels": 32,
            "enc_res2net_scale": 4,
            "enc_se_channels": 32,
        },
        "talker_config": {
            "vocab_size": TRIPLES + _CONTROL,
            "text_vocab_size": TEXT_TOKENS,
            "text_hidden_size": TEXT_WIDTH,
            "hidden_size": TALKER_WIDTH,
            "intermediate_size": 640,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "head_dim": 64,
            "hidden_act": "silu",
            "max_position_embeddings": 32768,
            "rms_norm_eps": 1e-6,
            "rope_theta": 10000,
            "rope_scaling": {"interleaved": True, "mrope_section": [12, 10, 10], "rope_type": "default"},
            "num_code_groups": GROUPS,
            "codec_pad_id": first_control,
            "codec_bos_id": first_control + 1,
            "codec_eos_token_id": first_control + 2,
            "codec_think_id": first_control + 3,
            "codec_nothink_id": first_control + 4,
            "codec_think_bos_id": first_control + 5,
            "codec_think_eos_id": first_control + 6,
            "codec_language_id": {"english": first_control + 7},
            "spk_id": {},
            "spk_is_dialect": {},
            "code_predictor_config": {
                "vocab_size": CODES,
                "hidden_size": 128,
                "intermediate_size": 640,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "num_key_value_heads": 2,
                "head_dim": 64,
                "max_position_embeddings": 64,
                "rms_norm_eps": 1e-6,
                "rope_theta": 10000,
                "num_code_groups": GROUPS,
            },
        },
    }
