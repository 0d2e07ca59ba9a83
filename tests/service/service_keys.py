"""The keys that the guarded service accepts, and one that it does not."""

APP = "tts_a-key-that-nobody-may-read"
SPEAKER = "tts_speaks-and-no-more"
UPLOADER = "tts_uploads-voices-too"
WRONG = "tts_nobody-knows-this-one"
