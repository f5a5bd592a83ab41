"""A plugin of pytest for tests that are to fail: hypothesis seeks no smaller failure."""

from hypothesis import Phase, settings

settings.register_profile("unshrunk", phases=[Phase.explicit, Phase.generate], database=None)
settings.load_profile("unshrunk")
