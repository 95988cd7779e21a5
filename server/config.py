"""Everything an operator can set, resolved."""

from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Config:
    """Settings of a server. Times in seconds, memory in GiB; None means found at start."""

    model: str = "embedded"
    model_name: str | None = None
    revision: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    trust_remote_code: bool = False
    context_length: int | None = None
    compile: bool | None = None
    host: str = "127.0.0.1"
    port: int = 50051
    web_port: int | None = None
    web_origin: tuple[str, ...] = ()
    max_rows: int = 64
    max_queue: int = 256
    kv_memory: float | None = None
    prefill_chunk: int | None = None
    prefix_cache: bool = True
    reflection: bool | None = None
    grace: float = 30.0
    drain_delay: float = 0.5
    max_per_client: int | None = None
    max_duration: float | None = None
    stall_timeout: float = 60.0
    step_timeout: float = 300.0
    uds: Path | None = None
    tcp: bool = True
    insecure: bool = False
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_client_ca: Path | None = None
    tokens: Path | None = None
    max_message_bytes: int = 4 << 20
    metrics_host: str = "127.0.0.1"
    metrics_port: int | None = None
    tracing: bool = False
    otlp_metrics: bool = False

    def __post_init__(self) -> None:
        """ValueError that names the option and what is allowed."""
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("--tls-cert and --tls-key belong together")
        if self.tls_client_ca is not None and self.tls_cert is None:
            raise ValueError("--tls-client-ca needs --tls-cert and --tls-key")
        if not self.tcp and self.uds is None:
            raise ValueError("--no-tcp needs --uds, or there is nowhere to listen")
        if not (self.loopback or self.tls_cert or self.insecure):
            raise ValueError(
                f"--host {self.host} lets others connect: give --tls-cert and --tls-key, or insist on plain text with"
                " --insecure"
            )
        if self.web_port is not None and not (self._loopback_host or self.insecure):
            raise ValueError(
                f"--web-port is plain HTTP, and --host {self.host} lets others connect: put a proxy with TLS before"
                " it, or insist with --insecure"
            )
        if self.web_port is not None and self.tls_client_ca is not None:
            raise ValueError("--web-port cannot ask for certificates: leave it or --tls-client-ca away")

    @property
    def loopback(self) -> bool:
        """Whether only this machine can connect."""
        return not self.tcp or self._loopback_host

    @property
    def _loopback_host(self) -> bool:
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    @property
    def reflects(self) -> bool:
        """Whether reflection is served: by default only where no stranger can ask."""
        return self.loopback if self.reflection is None else self.reflection
