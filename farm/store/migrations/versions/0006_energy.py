"""What meters saw of windows is kept, and what uncertainties consist of."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.add_column("measurement", sa.Column("budget", sa.JSON(), nullable=True))
    op.create_table(
        "recording",
        sa.Column("repeat_id", sa.Integer(), nullable=False),
        sa.Column("sha256", sa.String(), nullable=False),
        sa.Column("samples", sa.Integer(), nullable=False),
        sa.Column("lost", sa.Integer(), nullable=False),
        sa.Column("meter", sa.JSON(), nullable=False),
        sa.Column("window", sa.JSON(), nullable=False),
        sa.Column("spans", sa.JSON(), nullable=False),
        sa.Column("preview", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["repeat_id"], ["repeat.id"]),
        sa.PrimaryKeyConstraint("repeat_id"),
    )
    op.create_table(
        "meter_check",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("device", sa.String(), nullable=False),
        sa.Column("meter", sa.String(), nullable=False),
        sa.Column("complaints", sa.JSON(), nullable=False),
        sa.Column("checked", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("meter_check_by_device", "meter_check", ["device", "meter"])
