"""The Parquet sink: files in a folder or on S3, named by topic, partition and offsets."""

from milkrun.connectors.parquet.config import ParquetConfig, S3Options
from milkrun.connectors.parquet.sink import ParquetSink

__all__ = ["ParquetConfig", "ParquetSink", "S3Options"]
