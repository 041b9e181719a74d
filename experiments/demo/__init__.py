"""The demo: a picture goes in, and every rung of the road answers."""
