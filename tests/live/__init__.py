"""Tests of the provider in a whole Airflow, through its REST API: ``make live``."""
