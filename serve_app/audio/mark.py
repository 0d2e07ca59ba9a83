"""The machine-readable mark of generated speech: one statement for the tags of audio files, and one HTTP header.

The mark is plain metadata. It says where audio comes from, but anybody can remove it, and it proves nothing.
"""

DIGITAL_SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
"""IPTC's term for media that a trained model made; C2PA and news agencies use it too."""

COMMENT = f"AI-generated speech; digital source type: {DIGITAL_SOURCE_TYPE}"
"""The comment in every container that has tags."""

DISCLOSURE_HEADER = "ai-disclosure"
DISCLOSURE = "mode=machine-generated"
"""The header of every HTTP response with audio and of every WebSocket handshake.

Source: draft-abaris-aicdh-01, an individual Internet-Draft that has expired; no standard has such a header yet.
"""
