"""HTTP serving of pipelines: one process, any number of models.

`serve(settings)` runs until it is told to stop; `create_app(settings)` is the ASGI application alone.
"""

from engine.server.app import create_app
from engine.server.serve import serve
from engine.server.settings import EndpointSettings, ServerSettings, SettingsError, read_config

__all__ = ["EndpointSettings", "ServerSettings", "SettingsError", "create_app", "read_config", "serve"]
