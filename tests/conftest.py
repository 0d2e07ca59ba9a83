from hypothesis import settings

# Examples are counted, not timed: a busy machine is slow, not wrong.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
