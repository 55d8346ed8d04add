"""Entry of `streamlit run app.py`: starts the router, nothing else."""

from pathlib import Path

import streamlit as st

from nuggets.ui import serving

router = Path(serving.__file__).with_name("router.py")
app = st.App(router, lifespan=serving.lifespan, middleware=serving.middleware())
