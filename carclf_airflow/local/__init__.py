"""Airflow on one machine: ``make demo`` and ``make up``."""
