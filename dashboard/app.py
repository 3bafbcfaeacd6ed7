"""The dashboard: `streamlit run dashboard/app.py`, with FARM_STORE naming the folder of the store.

How the folder is laid out, and where the next view goes:

    views/<name>.py         one page each: reads its query parameters, asks data, draws
    data.py                 cached questions to the store: by run, by job, or bounded
    gate.py samples.py power.py
                            what was read, reduced to what can be shown
    tables.py charts.py     from frames to tables and charts (columns.py: how columns look)
    wording.py units.py     from values to sentences and numbers with units
    filters.py panels.py    widgets bound to the address; pieces of page that views share
    addresses.py            links to views; query parameters read back
    palette.py              colours, shapes and badges

Only app.py, views/, filters.py, panels.py and the caches of data.py need Streamlit to run; the rest
is pure and tested without it, so a view holds no logic of its own.

A new view is a file in views/ and a line in VIEWS below. Its address is the file's name; what it
shows is in its query parameters, so that every view can be pasted.
"""

from __future__ import annotations

import streamlit as st

from dashboard import data, panels

# In the order of the menu; `/` leads to the first.
VIEWS = [
    st.Page("views/runs.py", title="Runs", icon=":material/checklist:"),
    st.Page("views/job.py", title="Jobs", icon=":material/speed:"),
]


def _home() -> None:
    """`/` has no view of its own: addresses stay valid when another view comes first."""
    st.switch_page(VIEWS[0])


st.set_page_config(page_title="Verdict farm", page_icon="✅", layout="wide")
home = st.Page(_home, title="Home", url_path="home", default=True, visibility="hidden")
page = st.navigation([home, *VIEWS], position="top")
with panels.told_errors():
    page.run()
st.caption(f"Store {panels.plain(data.store_name())} · all times in UTC")
