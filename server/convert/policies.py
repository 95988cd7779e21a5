"""Policies, filters and penalties: from messages, to messages, and as ListPolicies describes them.

All of it follows from the declarations in `adaptive`: a new policy needs nothing here.
"""

import re
from collections.abc import Iterable
from typing import Any

from google.protobuf.json_format import MessageToDict

from adaptive import POLICIES, PRESETS, Filters, ParameterError, Penalties, Policy
from adaptive.parameters import Declared, Parameter
from adaptive.plugins import installed
from adaptive.policies import EntropyEvent, Fixed, Phase, Phased, PolicyState
from server.errors import Violation, not_found
from thermostat.v1 import generation_pb2, model_pb2, policy_pb2

Violations = list[Violation]


# From messages.


def read_policy(message: policy_pb2.Policy, path: str, violations: Violations) -> tuple[Policy, Filters]:
    """The policy of a request, and the filters that a preset brings; what is wrong goes to `violations`.

    RequestError (NOT_FOUND) for a preset or plugin that does not exist.
    """
    arm = message.WhichOneof("kind")
    if arm == "preset":
        name = message.preset.name
        if name not in PRESETS:
            raise not_found("preset", name, ", ".join(PRESETS))
        return PRESETS[name].policy, PRESETS[name].filters
    if arm == "phased":
        return _read_phased(message.phased, f"{path}.phased", violations), Filters()
    if arm == "plugin":
        return _read_plugin(message.plugin, f"{path}.plugin", violations), Filters()
    if arm is None:
        return Fixed(), Filters()
    policy = _build(POLICIES[arm], read_fields(POLICIES[arm], getattr(message, arm)), f"{path}.{arm}", violations)
    return policy or Fixed(), Filters()


def read_filters(message: generation_pb2.Filters, preset: Filters, path: str, violations: Violations) -> Filters:
    """The filters of a request, over those of its preset."""
    given = read_fields(Filters, message)
    before = {name: getattr(preset, name) for name in Filters.__slots__}
    if "top_h" in given:
        before["top_h_variant"] = None
    return _build(Filters, before | given, path, violations) or Filters()


def read_penalties(message: generation_pb2.Penalties, path: str, violations: Violations) -> Penalties:
    """The penalties of a request, without the breakers, which are text."""
    return _build(Penalties, read_fields(Penalties, message), path, violations) or Penalties()


def read_state(message: policy_pb2.PolicyState) -> PolicyState | None:
    """A policy's state; None if the message is empty."""
    if not message.policy:
        return None
    phases = tuple(read_state(phase) for phase in message.phases)
    return PolicyState(message.policy, dict(message.values), phases)


def read_fields(kind: type[Declared], message: Any) -> dict[str, Any]:
    """The parameters that a message sets, by name; a choice as its word."""
    settings = {}
    for parameter in kind.parameters():
        if parameter.choices:
            number = getattr(message, parameter.name)
            if number:
                settings[parameter.name] = enum_words(message, parameter.name).get(number, str(number))
        elif message.HasField(parameter.name):
            settings[parameter.name] = getattr(message, parameter.name)
    return settings


def enum_words(message: Any, field: str) -> dict[int, str]:
    """The values of an enum field as lower-case words: {2: "vocabulary"} for ENTROPY_NORMALIZER_VOCABULARY."""
    enum = message.DESCRIPTOR.fields_by_name[field].enum_type
    prefix = re.sub(r"(?<!^)(?=[A-Z])", "_", enum.name).upper() + "_"
    return {value.number: value.name.removeprefix(prefix).lower() for value in enum.values}


def _build(kind: Any, settings: dict[str, Any], path: str, violations: Violations) -> Any:
    try:
        return kind(**settings)
    except ParameterError as error:
        violations.extend(Violation(f"{path}.{name}", allowed) for name, allowed in error.violations)
        return None


def _read_phased(message: policy_pb2.PhasedPolicy, path: str, violations: Violations) -> Policy:
    phases = []
    before = len(violations)
    for i, phase in enumerate(message.phases):
        here = f"{path}.phases[{i}]"
        policy, filters = read_policy(phase.policy, f"{here}.policy", violations)
        if filters != Filters():
            allowed = "must be a preset without filters: they are the request's, not a phase's"
            violations.append(Violation(f"{here}.policy.preset.name", allowed))
        until: Any = phase.WhichOneof("until")
        if until == "entropy_event":
            event = phase.entropy_event
            bound = event.WhichOneof("bound")
            given = {bound: getattr(event, bound)} if bound else {}
            until = EntropyEvent(**given, tokens=event.tokens if event.HasField("tokens") else 1)
        elif until is not None:
            until = getattr(phase, until)
        phases.append(Phase(policy, until))
    if len(violations) > before:
        return Fixed()
    return _build(Phased, {"phases": tuple(phases)}, path, violations) or Fixed()


def _read_plugin(message: policy_pb2.PluginPolicy, path: str, violations: Violations) -> Policy:
    kinds = installed()
    if message.name not in kinds:
        raise not_found("policy", message.name, ", ".join(kinds) or "no plugin")
    kind = kinds[message.name]
    given = MessageToDict(message.parameters)
    known = {parameter.name: parameter for parameter in kind.parameters()}
    for name in given.keys() - known.keys():
        violations.append(Violation(f"{path}.parameters.{name}", f"must be one of {', '.join(known) or 'none'}"))
    settings = {name: _plugin_value(known[name], value) for name, value in given.items() if name in known}
    return _build(kind, settings, f"{path}.parameters", violations) or Fixed()


def _plugin_value(parameter: Parameter, value: Any) -> Any:
    """JSON knows one kind of number; a whole one is an int where the parameter wants that."""
    return int(value) if parameter.integer and isinstance(value, float) and value.is_integer() else value


# To messages.


def policy_message(policy: Policy) -> policy_pb2.Policy:
    """A policy with every parameter filled in."""
    message = policy_pb2.Policy()
    if isinstance(policy, Phased):
        for phase in policy.phases:
            _fill_phase(message.phased.phases.add(), phase)
    elif policy.name in POLICIES:
        arm = getattr(message, policy.name)
        arm.SetInParent()
        fill_fields(arm, policy)
    else:
        message.plugin.name = policy.name
        values = {parameter.name: getattr(policy, parameter.name) for parameter in policy.parameters()}
        message.plugin.parameters.update({name: value for name, value in values.items() if value is not None})
    return message


def fill_fields(message: Any, declared: Declared) -> None:
    """Set every field whose parameter has a value."""
    for parameter in declared.parameters():
        value = getattr(declared, parameter.name)
        if value is None:
            continue
        if parameter.choices:
            value = {word: number for number, word in enum_words(message, parameter.name).items()}[value]
        setattr(message, parameter.name, value)


def filters_message(filters: Filters) -> generation_pb2.Filters:
    """The filters in force."""
    message = generation_pb2.Filters()
    fill_fields(message, filters)
    return message


def fill_state(message: policy_pb2.PolicyState, state: PolicyState) -> None:
    """A policy's state."""
    message.policy = state.policy
    for name, value in state.values.items():
        message.values[name] = value
    for phase in state.phases:
        nested = message.phases.add()
        if phase is not None:
            fill_state(nested, phase)


def _fill_phase(message: policy_pb2.Phase, phase: Phase) -> None:
    message.policy.CopyFrom(policy_message(phase.policy))
    until = phase.until
    if isinstance(until, str):
        message.marker = until
    elif isinstance(until, int):
        message.tokens = until
    elif isinstance(until, EntropyEvent):
        if until.above is not None:
            message.entropy_event.above = until.above
        elif until.below is not None:
            message.entropy_event.below = until.below
        message.entropy_event.tokens = until.tokens


# As ListPolicies describes them.


def policy_descriptions() -> model_pb2.ListPoliciesResponse:
    """Every policy, from its own declaration, those of installed packages last; then the presets."""
    response = model_pb2.ListPoliciesResponse()
    _describe(response, POLICIES.values(), plugin=False)
    _describe(response, installed().values(), plugin=True)
    for name, preset in PRESETS.items():
        response.presets.add(
            name=name,
            summary=preset.summary,
            policy=policy_message(preset.policy),
            filters=filters_message(preset.filters),
        )
    return response


def _describe(response: model_pb2.ListPoliciesResponse, kinds: Iterable[type[Policy]], plugin: bool) -> None:
    for kind in kinds:
        description = response.policies.add(name=kind.name, summary=kind.summary(), plugin=plugin)
        for parameter in kind.parameters():
            _fill_parameter(description.parameters.add(), parameter)
        for value in kind.state:
            description.state.add(name=value.name, help=value.help, unit=value.unit)


def _fill_parameter(message: model_pb2.ParameterDescription, parameter: Parameter) -> None:
    message.name, message.help, message.unit = parameter.name, parameter.help, parameter.unit
    message.integer = parameter.integer
    message.choices.extend(parameter.choices)
    if parameter.default is not None:
        if parameter.choices:
            message.choice = parameter.default
        else:
            message.number = parameter.default
    if parameter.minimum is not None:
        message.minimum = parameter.minimum
        message.minimum_excluded = parameter.minimum_excluded
    if parameter.maximum is not None:
        message.maximum = parameter.maximum
