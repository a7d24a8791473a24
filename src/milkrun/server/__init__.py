"""Metrics and health over HTTP, for Prometheus and whoever is on call. What it shows comes from `milkrun.control` alone."""
