"""Entry of `streamlit run app.py`: starts the router, nothing else."""

from pathlib import Path

import streamlit as st

from nuggets.ui import serving

router = Path(__file__).parent / "nuggets" / "ui" / "router.py"
app = st.App(router, lifespan=serving.lifespan, middleware=serving.middleware())
