"""Places for whole objects: a folder of this machine, or an S3 bucket. Connectors and the archive of a log keep files there."""
