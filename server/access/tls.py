"""TLS: certificates from files, checked before use, changed without a restart."""

import ssl
from dataclasses import dataclass
from pathlib import Path

import grpc

from server.access.reload import Watched


@dataclass(frozen=True, slots=True)
class CertificateFiles:
    """PEM files: the server's chain and key, and the authorities of clients' certificates, if they must have one."""

    chain: Path
    key: Path
    client_authorities: Path | None = None

    @property
    def paths(self) -> list[Path]:
        """All of them."""
        return [path for path in (self.chain, self.key, self.client_authorities) if path is not None]


class Certificates:
    """The certificates in force. A new one counts from the next handshake on; connections that are open stay."""

    def __init__(self, files: CertificateFiles) -> None:
        self._files = files
        self._watched = Watched("certificate", files.paths, self._read)
        self._handed = self._watched.value

    def refresh(self) -> None:
        """Take in changed files."""
        self._watched.refresh()

    def credentials(self) -> grpc.ServerCredentials:
        """What a server listens with."""
        mutual = self._files.client_authorities is not None
        return grpc.dynamic_ssl_server_credentials(self._handed, self._fetch, require_client_authentication=mutual)

    def _fetch(self) -> grpc.ServerCertificateConfiguration | None:
        """Asked by gRPC before every handshake; None: nothing has changed."""
        if self._watched.value is self._handed:
            return None
        self._handed = self._watched.value
        return self._handed

    def _read(self) -> grpc.ServerCertificateConfiguration:
        """ValueError unless the files are a chain, its key, and authorities: gRPC itself would tell of it too late."""
        files = self._files
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            context.load_cert_chain(files.chain, files.key, password=_no_password)
            if files.client_authorities is not None:
                context.load_verify_locations(files.client_authorities)
        except ssl.SSLError as fault:
            names = ", ".join(map(str, files.paths))
            raise ValueError(f"{names}: {fault.reason or fault}") from None
        authorities = files.client_authorities
        return grpc.ssl_server_certificate_configuration(
            [(files.key.read_bytes(), files.chain.read_bytes())],
            root_certificates=None if authorities is None else authorities.read_bytes(),
        )


def _no_password() -> str:
    raise ValueError("the key must not be encrypted")
