"""Start the api-server; before that, create the roles, and the administrator with the password of the environment."""

import os

from airflow.providers.fab.auth_manager.cli_commands.utils import get_application_builder
from airflow.providers.fab.auth_manager.security_manager.override import FabAirflowSecurityManagerOverride as Roles
from airflow.providers.fab.www.security import permissions as names
from werkzeug.security import check_password_hash

from carclf_airflow.ids import PROMOTE_DAG

# Viewer and Admin are the provider's. Its roles User and Op may both start runs and approve them.
OPERATOR = [
    (names.ACTION_CAN_EDIT, names.RESOURCE_DAG),
    (names.ACTION_CAN_CREATE, names.RESOURCE_DAG_RUN),
    (names.ACTION_CAN_EDIT, names.RESOURCE_DAG_RUN),
    (names.ACTION_CAN_EDIT, names.RESOURCE_TASK_INSTANCE),
]
APPROVER = [
    (names.ACTION_CAN_EDIT, names.resource_name(PROMOTE_DAG, names.RESOURCE_DAG)),
    (names.ACTION_CAN_EDIT, names.RESOURCE_HITL_DETAIL),
    (names.ACTION_CAN_ACCESS_MENU, names.RESOURCE_HITL_DETAIL),
]
# The UI shows a plugin's pages only to those who may read the list of plugins, which is not in VIEWER_PERMISSIONS.
VIEWER = [*Roles.VIEWER_PERMISSIONS, (names.ACTION_CAN_READ, names.RESOURCE_PLUGIN)]
ROLES = [{"role": role, "perms": VIEWER + permissions}
         for role, permissions in (("Viewer", []), ("Operator", OPERATOR), ("Approver", APPROVER))]


def prepare_database(password: str) -> None:
    """Create the roles and permissions that are missing, and the user ``admin`` with this password.

    A password that differs from the user's replaces it, which ends the user's sessions.
    """
    with get_application_builder() as builder:  # creates the provider's roles
        manager = builder.sm
        manager.bulk_sync_roles(ROLES)
        if (user := manager.find_user("admin")) is None:
            manager.add_user("admin", "Airflow", "Admin", "admin@localhost", manager.find_role("Admin"), password)
        elif not check_password_hash(user.password, password):
            manager.reset_password(user.id, password)


def main() -> None:
    """Prepare the database, and replace this process by ``airflow api-server``."""
    prepare_database(os.environ.pop("AIRFLOW_ADMIN_PASSWORD"))
    os.execvp("airflow", ["airflow", "api-server"])


if __name__ == "__main__":
    main()
