"""The Sensitivity page of an atlas: maps that open without their model."""

from __future__ import annotations

import streamlit as st

from nuggets import api
from nuggets.ui.sensitivity.sources import Source, Sources


def chosen() -> tuple[Sources, str]:
    """Draws which atlas and which of its skills are shown; both are part of the address.

    Returns:
        The maps of the atlas, and the name of the one that is shown.
    """
    names = list(api.atlases.atlases())
    name = st.selectbox("Atlas", names, key="atlas", bind="query-params", width=230)
    found = sources(name)
    skill = st.selectbox("Skill", list(found), key="atlas_skill", bind="query-params", width=140)
    return found, skill


def sources(name: str) -> Sources:
    """The maps of an atlas as the page draws them."""
    atlas = _opened(name, api.atlases.atlases()[name].stat().st_mtime_ns)
    return {
        skill: Source(skill, None, map, atlas=name, erasure=atlas.erasures.get(skill))
        for skill, map in atlas.maps.items()
    }


@st.cache_resource(max_entries=8, show_spinner=False)
def _opened(name: str, _changed: int) -> api.atlases.Atlas:
    return api.atlases.open_atlas(name)


def card(name: str) -> None:
    """What the atlas is of, and how it came about."""
    about = _opened(name, api.atlases.atlases()[name].stat().st_mtime_ns).card
    st.subheader("About this atlas", anchor=False)
    for text in (f"{about.model}. {about.about}", about.licence):
        if text:
            st.text(text)
