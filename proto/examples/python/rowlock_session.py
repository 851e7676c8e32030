"""How to reach Rowlock: channels, who is signed in, what an error says."""

import threading
import time
import uuid
from pathlib import Path

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from rowlock.identity.v1.auth_service_pb2 import RefreshTokensRequest, SignInRequest, SignUpRequest
from rowlock.identity.v1.auth_service_pb2_grpc import AuthServiceStub

SERVICE_CONFIG = Path(__file__).resolve().parents[2] / "service-config.json"


def connect(addresses: str) -> grpc.Channel:
    """A channel to all of these comma-separated addresses, as the service config says.

    Where a name stands for all replicas, the target is "dns:///name:port".
    """
    # A list of addresses does not make the name that HTTP/2 asks for.
    options = [("grpc.service_config", SERVICE_CONFIG.read_text()), ("grpc.default_authority", "rowlock")]
    return grpc.insecure_channel("ipv4:" + addresses.replace("http://", ""), options)


class Session:
    """Someone who is signed in."""

    def __init__(self, auth: AuthServiceStub, email: str, password: str) -> None:
        self._auth = auth
        self._lock = threading.Lock()
        self._tokens = auth.SignIn(SignInRequest(email=email, password=password))

    @classmethod
    def newcomer(cls, auth: AuthServiceStub, display_name: str) -> "Session":
        """Signs somebody up, who stays as a user of this system."""
        email, password = f"{uuid.uuid4()}@rowlock.test", str(uuid.uuid4())
        auth.SignUp(SignUpRequest(email=email, password=password, display_name=display_name))
        return cls(auth, email, password)

    @property
    def refresh_token(self) -> str:
        return self._tokens.refresh_token

    def refresh(self) -> None:
        """Trades the refresh token, which is good for one use, for the next tokens."""
        with self._lock:
            self._refresh()

    def _refresh(self) -> None:
        self._tokens = self._auth.RefreshTokens(RefreshTokensRequest(refresh_token=self._tokens.refresh_token))

    def metadata(self) -> list[tuple[str, str]]:
        """What to send with a call: an access token that is good for half a minute more."""
        with self._lock:
            if self._tokens.access_token_expire_time.seconds - time.time() < 30:
                self._refresh()
            return [("authorization", f"Bearer {self._tokens.access_token}")]


def reason(error: grpc.RpcError) -> str | None:
    """The reason in the google.rpc.ErrorInfo of an error: what a program decides by. Its message is for people."""
    status = rpc_status.from_call(error)
    for detail in status.details if status else ():
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            return info.reason
    return None
