"""The version, of package, images and chart."""

__version__ = "0.1.0"
