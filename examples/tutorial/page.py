"""The page of the tutorial: a message, and two buttons that send it. `streamlit run page.py`; SEGNO_URL says where the hub is."""

import os

import requests
import streamlit as st

HUB = os.environ.get("SEGNO_URL", "http://localhost:8000")


def send(path: str, message: str) -> None:
    """Posts the message, and shows what the hub answers."""
    try:
        answer = requests.post(f"{HUB}{path}", json={"message": message}, timeout=10)
    except requests.RequestException as error:
        st.error(f"No hub at {HUB}: {error}")
        return
    if answer.ok:
        st.success(answer.json()["status"])
        st.json(answer.json())
    else:
        st.error(answer.json()["detail"])


st.title("Send a message")
message = st.text_input("Message", value="Hello", key="message")
left, right = st.columns(2)
if left.button("Send as SSE", key="sse", width="stretch"):
    send("/messages", message)
if right.button("Send as REST", key="rest", width="stretch"):
    send("/send_rest", message)
st.caption(f"Who follows `{HUB}/sse?topic=messages` sees it. `python client.py` prints what comes.")
