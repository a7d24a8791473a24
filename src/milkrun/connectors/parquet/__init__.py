"""The Parquet sink: files in a folder or on S3, named by topic, partition and offsets."""

from milkrun.connectors.parquet.config import ParquetConfig
from milkrun.connectors.parquet.sink import ParquetSink
from milkrun.storage.target import S3Options

__all__ = ["ParquetConfig", "ParquetSink", "S3Options"]
