"""The log on an Apache Kafka cluster, by confluent-kafka: events are ordinary messages, everything else lives in internal topics.

What belongs together is committed in one Kafka transaction; consumer groups say who works on what, and fence who has lost it.
"""

from milkrun.log.kafka.log import KafkaLog, exists

__all__ = ["KafkaLog", "exists"]
