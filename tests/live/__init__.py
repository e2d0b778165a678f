"""The provider in a whole Airflow, driven from outside: ``make live``."""
