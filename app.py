"""Entry of `streamlit run app.py`: starts the router, nothing else."""

from pathlib import Path

import streamlit as st
from starlette.middleware import Middleware

from nuggets.ui import warm_up

router = Path(__file__).parent / "nuggets" / "ui" / "router.py"
app = st.App(router, lifespan=warm_up.lifespan, middleware=[Middleware(warm_up.PreloadCharts)])
