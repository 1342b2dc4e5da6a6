"""Inference engines: ways to run a network, behind the interface `lorat_plugin.tracking.Engine`."""

from lorat_plugin.engines.select import check_options, list_engines, list_precisions, prepare

__all__ = ["check_options", "list_engines", "list_precisions", "prepare"]
