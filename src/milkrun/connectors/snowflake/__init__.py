"""The Snowflake sink. Its client library comes with the extra `milkrun[snowflake]` and is loaded when the sink is opened."""

from milkrun.connectors.snowflake.config import SnowflakeConfig
from milkrun.connectors.snowflake.sink import SnowflakeSink

__all__ = ["SnowflakeConfig", "SnowflakeSink"]
