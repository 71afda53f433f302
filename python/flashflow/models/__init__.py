"""The models: configs in config.py (no torch), modules beside it, made by build.build_model."""
