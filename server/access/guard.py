"""Where a server listens and whom it lets in, put together from its settings."""

import asyncio

import grpc

from server.access.callers import Callers, read_callers
from server.access.interceptor import Door
from server.access.reload import Refreshable, Watched, keep_fresh, refresh
from server.access.tls import CertificateFiles, Certificates
from server.config import Config

_FRESH_SECONDS = 1.0


class Guard:
    """BadFile if a file cannot be used: made before the model is loaded, so that this is told at once."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._task: asyncio.Task | None = None  # kept, or it would be collected while it runs
        self._watched: list[Refreshable] = []
        self._certificates = self._find_certificates()
        self.interceptors = self._find_doors()

    def listen(self, server: grpc.aio.Server) -> str:
        """Open the sockets; the address that clients connect to. A Unix socket is its owner's alone and has no TLS."""
        config = self._config
        if config.uds is not None:
            server.add_insecure_port(f"unix:{config.uds}")
        if not config.tcp:
            return f"unix:{config.uds}"
        host = f"[{config.host}]" if ":" in config.host else config.host
        wanted = f"{host}:{config.port}"
        if self._certificates is None:
            return f"{host}:{server.add_insecure_port(wanted)}"
        return f"{host}:{server.add_secure_port(wanted, self._certificates.credentials())}"

    def refresh(self) -> None:
        """Look now whether files have changed."""
        refresh(self._watched)

    def keep_fresh(self) -> None:
        """Look every second from now on."""
        self._task = asyncio.get_running_loop().create_task(keep_fresh(self._watched, _FRESH_SECONDS))

    def _find_certificates(self) -> Certificates | None:
        config = self._config
        if config.tls_cert is None or config.tls_key is None:
            return None
        certificates = Certificates(CertificateFiles(config.tls_cert, config.tls_key, config.tls_client_ca))
        self._watched.append(certificates)
        return certificates

    def _find_doors(self) -> list[grpc.aio.ServerInterceptor]:
        if (path := self._config.tokens) is None:
            return []
        callers: Watched[Callers] | None = None

        def read() -> Callers:
            return read_callers(path, callers.value if callers else None)

        callers = Watched("tokens", [path], read)
        self._watched.append(callers)
        return [Door(lambda: callers.value)]
