"""Looks at batteries are kept, and which packs are not to be trusted."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.create_table(
        "battery_look",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("device", sa.String(), nullable=False),
        sa.Column("taken", sa.String(), nullable=False),
        sa.Column("idle", sa.Boolean(), nullable=False),
        sa.Column("level_pct", sa.Float(), nullable=True),
        sa.Column("temperature_c", sa.Float(), nullable=True),
        sa.Column("health", sa.String(), nullable=False),
        sa.Column("cycles", sa.Integer(), nullable=True),
        sa.Column("capacity_pct", sa.Float(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("battery_look_by_device", "battery_look", ["device", "taken"])
    op.create_table(
        "quarantine",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("device", sa.String(), nullable=False),
        sa.Column("began", sa.String(), nullable=False),
        sa.Column("saw", sa.Text(), nullable=False),
        sa.Column("act", sa.Text(), nullable=False),
        sa.Column("cleared", sa.String(), nullable=True),
        sa.Column("who", sa.String(), nullable=True),
        sa.Column("why", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("quarantine_by_device", "quarantine", ["device"])
