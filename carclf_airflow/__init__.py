"""The Airflow side: stages as child processes, the trigger form, approval, notifications, and the pages."""
