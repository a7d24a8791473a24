"""The RabbitMQ source: `RabbitMQSource` and its options, `RabbitMQConfig`.

`source` ties together `link` (the connection, in a thread of its own), `reader` (one queue), `wire` (deliveries off the socket),
`acks` (which deliveries may be acknowledged) and `columns` (deliveries to Arrow, through `properties` and `tables`).
"""

from milkrun.connectors.rabbitmq.config import RabbitMQConfig
from milkrun.connectors.rabbitmq.source import RabbitMQSource

__all__ = ["RabbitMQConfig", "RabbitMQSource"]
