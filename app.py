"""Entry of `streamlit run app.py`: starts the router, nothing else."""

from pathlib import Path

import streamlit as st

app = st.App(Path(__file__).parent / "nuggets" / "ui" / "router.py")
