"""Apache Airflow provider for batches of LLM requests behind the Portkey gateway."""

__version__ = "0.1.0"
