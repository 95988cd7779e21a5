"""Client of Thermostat, the gRPC server that sets temperature from the entropy of the next token.

from thermostat import Client, TargetEntropy

with Client("localhost:50051") as client:
    print(client.text("def ", policy=TargetEntropy(1.5), seed=7))
"""

from thermostat.aio import AsyncClient, AsyncGeneration
from thermostat.channel import tls
from thermostat.client import Client, Generation
from thermostat.errors import (
    AccessDenied,
    Cancelled,
    DeadlineExceeded,
    FieldViolation,
    InvalidRequest,
    ModelNotFound,
    Overloaded,
    ServerFault,
    ThermostatError,
    Unavailable,
)
from thermostat.events import Event, Finished, FinishReason, Output, Started, Token
from thermostat.policies import (
    AdaptiveP,
    Bell,
    Edt,
    EntropyBand,
    EntropyEvent,
    EntropyFeedback,
    EntropyPolynomial,
    Fixed,
    Greedy,
    Mirostat,
    Phase,
    Phased,
    Plugin,
    Policy,
    Preset,
    Quadrant,
    TargetEntropy,
)
from thermostat.words import parse_policy

__all__ = [
    "AccessDenied",
    "AdaptiveP",
    "AsyncClient",
    "AsyncGeneration",
    "Bell",
    "Cancelled",
    "Client",
    "DeadlineExceeded",
    "Edt",
    "EntropyBand",
    "EntropyEvent",
    "EntropyFeedback",
    "EntropyPolynomial",
    "Event",
    "FieldViolation",
    "FinishReason",
    "Finished",
    "Fixed",
    "Generation",
    "Greedy",
    "InvalidRequest",
    "Mirostat",
    "ModelNotFound",
    "Output",
    "Overloaded",
    "Phase",
    "Phased",
    "Plugin",
    "Policy",
    "Preset",
    "Quadrant",
    "ServerFault",
    "Started",
    "TargetEntropy",
    "ThermostatError",
    "Token",
    "Unavailable",
    "parse_policy",
    "tls",
]
