"""Everything an operator can set, resolved."""

from dataclasses import dataclass
from ipaddress import ip_address


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
    host: str = "127.0.0.1"
    port: int = 50051
    max_rows: int = 64
    max_queue: int = 256
    kv_memory: float | None = None
    prefill_chunk: int | None = None
    reflection: bool | None = None
    grace: float = 30.0

    @property
    def loopback(self) -> bool:
        """Whether only this machine can connect."""
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    @property
    def reflects(self) -> bool:
        """Whether reflection is served: by default only where no stranger can ask."""
        return self.loopback if self.reflection is None else self.reflection
