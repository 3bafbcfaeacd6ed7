"""The tables. Times are ISO 8601 text in UTC: they sort, and read the same in every database."""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

metadata = MetaData()

run = Table(
    "run",
    metadata,
    Column("id", String, primary_key=True),
    Column("kind", String, nullable=False),
    Column("suite", String, nullable=False),
    Column("started", String, nullable=False),
    Column("finished", String),
    Column("commit", String, nullable=False),
    Column("parent", String, nullable=False),
    Column("branch", String, nullable=False),
    Column("purpose", String, nullable=False),
    Column("planned", Integer, nullable=False),
    Column("skips", JSON, nullable=False),
    Column("command", Text, nullable=False),
    Column("farm_version", String, nullable=False),
    Index("run_by_start", "started"),
)

job = Table(
    "job",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("run_id", ForeignKey("run.id"), nullable=False),
    Column("ordinal", Integer, nullable=False),
    Column("device", String, nullable=False),
    Column("device_type", String, nullable=False),
    Column("runtime", String, nullable=False),
    Column("accelerator_asked", String, nullable=False),
    Column("accelerator", String, nullable=False),
    Column("workload", String, nullable=False),
    Column("workload_digest", String, nullable=False),
    Column("scenario", String, nullable=False),
    Column("load", JSON, nullable=False),
    Column("load_digest", String, nullable=False),
    Column("time_basis", String, nullable=False),
    Column("simulated", Boolean, nullable=False),
    Column("outcome", String, nullable=False),
    Column("started", String, nullable=False),
    Column("finished", String, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("lease_token", Integer, nullable=False),
    Column("environment", JSON, nullable=False),
    Column("notes", JSON, nullable=False),
    Column("error", JSON),
    Column("trace_sha256", String, nullable=False),
    UniqueConstraint("run_id", "ordinal", name="job_once_per_run"),
    Index("job_by_device", "device", "started"),
)

model = Table(
    "model",
    metadata,
    Column("job_id", ForeignKey("job.id"), primary_key=True),
    Column("arm", String, primary_key=True),
    Column("name", String, nullable=False),
    Column("sha256", String, nullable=False),
    Column("size_bytes", Integer, nullable=False),
)

repeat = Table(
    "repeat",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("job_id", ForeignKey("job.id"), nullable=False),
    Column("arm", String, nullable=False),
    Column("block", Integer, nullable=False),
    Column("position", Integer, nullable=False),
    Column("started", String, nullable=False),
    Column("conditions", JSON, nullable=False),
    Column("readings", JSON, nullable=False),
    Column("facts", JSON, nullable=False),
    Index("repeat_by_job", "job_id"),
)

measurement = Table(
    "measurement",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("job_id", ForeignKey("job.id"), nullable=False),
    Column("repeat_id", ForeignKey("repeat.id")),  # null: over the whole job
    Column("arm", String, nullable=False),
    Column("metric", String, nullable=False),
    Column("unit", String, nullable=False),
    Column("value", Float, nullable=False),
    Column("lo", Float),
    Column("hi", Float),
    Column("n", Integer, nullable=False),
    Column("budget", JSON),  # null where the interval is of repeats alone
    Index("measurement_by_job", "job_id", "metric"),
)

recording = Table(
    "recording",
    metadata,
    Column("repeat_id", ForeignKey("repeat.id"), primary_key=True),
    Column("sha256", String, nullable=False),
    Column("samples", Integer, nullable=False),
    Column("lost", Integer, nullable=False),
    Column("meter", JSON, nullable=False),
    Column("window", JSON, nullable=False),  # what was found in it
    Column("spans", JSON, nullable=False),  # kind, start and end in ns, inferences
    Column("preview", JSON, nullable=False),  # least, mean and largest power of equal parts
)

meter_check = Table(
    "meter_check",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("device", String, nullable=False),
    Column("meter", String, nullable=False),
    Column("complaints", JSON, nullable=False),
    Column("checked", String, nullable=False),
    Index("meter_check_by_device", "device", "meter"),
)

verdict = Table(
    "verdict",
    metadata,
    Column("run_id", ForeignKey("run.id"), primary_key=True),
    Column("verdict", String, nullable=False),
    Column("policy_sha256", String, nullable=False),
    Column("policy", Text, nullable=False),
    Column("document", Text, nullable=False),
    Column("judged", String, nullable=False),
)

question = Table(
    "question",
    metadata,
    Column("run_id", ForeignKey("run.id"), primary_key=True),
    Column("key", String, nullable=False),
    Column("looks", Integer, nullable=False),
    Column("fresh", Text, nullable=False),  # why it was measured anew, empty if it was not
    Index("question_by_key", "key"),
)

noise = Table(
    "noise",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("device", String, nullable=False),
    Column("runtime", String, nullable=False),
    Column("accelerator", String, nullable=False),
    Column("load_digest", String, nullable=False),
    Column("metric", String, nullable=False),
    Column("run_id", ForeignKey("run.id"), nullable=False),
    Column("measured", String, nullable=False),
    Column("blocks", Integer, nullable=False),
    Column("repeat_cv", Float, nullable=False),
    Column("shared", Float, nullable=False),
    Column("autocorrelation", Float),
    Column("block_sd", Float, nullable=False),
    Column("false_alarm", Float, nullable=False),
    Index("noise_by_device", "device", "runtime", "accelerator", "load_digest", "metric"),
)

alert = Table(
    "alert",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("series", String, nullable=False),
    Column("metric", String, nullable=False),
    Column("device", String, nullable=False),
    Column("device_type", String, nullable=False),
    Column("simulated", Boolean, nullable=False),
    Column("earlier", String, nullable=False),  # the last revision with the old level
    Column("revision", String, nullable=False),  # the first with the new one
    Column("before", Float, nullable=False),
    Column("after", Float, nullable=False),
    Column("effect", Float, nullable=False),  # a fraction; infinite from a level of 0
    Column("lo", Float, nullable=False),
    Column("hi", Float, nullable=False),
    Column("n_before", Integer, nullable=False),
    Column("n_after", Integer, nullable=False),
    Column("floor", Float, nullable=False),
    Column("slack", Float, nullable=False),
    Column("state", String, nullable=False),
    Column("absences", Integer, nullable=False),
    Column("digest", String, nullable=False),
    Column("latest", String, nullable=False),
    Index("alert_by_series", "series"),
)

alert_transition = Table(
    "alert_transition",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("alert_id", ForeignKey("alert.id"), nullable=False),
    Column("source", String),  # null: the alert begins
    Column("target", String, nullable=False),
    Column("who", String, nullable=False),
    Column("made", String, nullable=False),
    Column("why", Text, nullable=False),
    Column("bound", Float, nullable=False),
    Column("latest", String, nullable=False),
    Index("alert_transition_by_alert", "alert_id"),
)

battery_look = Table(
    "battery_look",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("device", String, nullable=False),
    Column("taken", String, nullable=False),
    Column("idle", Boolean, nullable=False),  # whether nothing was measured meanwhile
    Column("level_pct", Float),
    Column("temperature_c", Float),
    Column("health", String, nullable=False),
    Column("cycles", Integer),
    Column("capacity_pct", Float),
    Index("battery_look_by_device", "device", "taken"),
)

quarantine = Table(
    "quarantine",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("device", String, nullable=False),
    Column("began", String, nullable=False),
    Column("saw", Text, nullable=False),
    Column("act", Text, nullable=False),
    Column("cleared", String),  # null: its pack is not to be trusted
    Column("who", String),
    Column("why", Text),
    Index("quarantine_by_device", "device"),
)

lease = Table(
    "lease",
    metadata,
    Column("device", String, primary_key=True),
    Column("host", String, nullable=False),  # what the device shares processor time with
    Column("token", Integer, nullable=False),
    Column("holder", String),  # null: free
    Column("until", Float, nullable=False),  # Unix seconds
    Column("node", String, nullable=False),  # the holder's machine
    Column("boot_id", String, nullable=False),
    Column("pid", Integer, nullable=False),
    Column("process_start", String, nullable=False),
)
