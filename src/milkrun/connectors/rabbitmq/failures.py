"""What pika says of a connection that failed, in plain words and without secrets."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator

from pika import exceptions
from pika.adapters.utils.connection_workflow import AMQPConnectorStackTimeout

from milkrun.connectors.rabbitmq.config import Address
from milkrun.model.errors import Unreachable


def unreachable(address: Address, error: BaseException) -> Unreachable:
    """The error to raise for a connection that couldn't be made or has broken. All of these may heal: nothing is Refused."""
    return Unreachable(f"{address}: {_reason(address, error)}")


def _reason(address: Address, error: BaseException) -> str:
    causes = list(_causes(error))
    for cause in causes:
        text = _explained(address, cause)
        if text is not None:
            return text
    # The class alone: the text of an unknown error may hold anything.
    return f"the connection failed ({type(causes[-1]).__name__})"


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and those that it wraps, the outer ones first; pika wraps in arguments and attributes."""
    yield error
    inner = [*getattr(error, "exceptions", ())[-1:], getattr(error, "exception", None), *error.args]
    for cause in inner:
        if isinstance(cause, BaseException) and cause is not error:
            yield from _causes(cause)


def _explained(address: Address, error: BaseException) -> str | None:
    match error:
        case exceptions.ProbableAuthenticationError() | exceptions.AuthenticationError():
            return (
                f"the broker refuses the login of user {address.user!r}: check user and password in the url"
            )
        case exceptions.ProbableAccessDeniedError():
            return (
                f"there is no such virtual host, or user {address.user!r} may not use it: "
                "check the url, or grant the permission"
            )
        case exceptions.IncompatibleProtocolError() | exceptions.ProtocolVersionMismatch():
            return "what answers is no AMQP 0-9-1 broker, or wants TLS: check port and scheme of the url"
        case exceptions.AMQPHeartbeatTimeout():
            return "the broker has shown no sign of life; its machine or the network is down"
        case exceptions.ConnectionClosedByBroker():
            return f"the broker has closed the connection: {error.reply_text}"
        case AMQPConnectorStackTimeout() | exceptions.ConnectionOpenAborted() | TimeoutError():
            return "no answer in time; check host, port and firewall"
        case _:
            return _network(error)


def _network(error: BaseException) -> str | None:
    match error:
        case ssl.SSLCertVerificationError():
            return f"the broker's certificate is not trusted ({error.verify_message}): check tls.ca and the host name"
        case ssl.SSLError():
            return f"TLS failed ({error.reason or 'no reason given'}): check that the port speaks TLS"
        case socket.gaierror():
            return "the host's name is not known; check the url"
        case OSError():
            return error.strerror or type(error).__name__
        case exceptions.StreamLostError():
            return "the connection was lost"
        case _:
            return None
