"""How the page is served: to this machine's browser, with nothing from elsewhere."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path
from signal import SIGTERM, default_int_handler, signal
from threading import Event
from typing import Any

import gradio as gr
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware

from experiments.demo.answers import MOST_BYTES

LOCAL = ("127.0.0.1", "localhost")
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' blob:; font-src 'self' data:; worker-src 'self' blob:; "
    "connect-src 'self' data: blob:; frame-ancestors 'none'; form-action 'self'; base-uri 'self'"
)
"""What the browser may load for the page: nothing from other hosts."""
FONTS = ["system-ui", "sans-serif"]


class PolicyMiddleware:
    """Sends the policy with every response."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def send_with_policy(message: Any) -> None:
            if message["type"] == "http.response.start":
                headers = [(b"content-security-policy", POLICY.encode()), (b"referrer-policy", b"no-referrer")]
                message = {**message, "headers": [*message["headers"], *headers]}
            await send(message)

        await self.app(scope, receive, send_with_policy)


def is_local(host: str) -> bool:
    """Whether an IPv4 address is reached from this machine alone."""
    return ip_address(host).is_loopback


def serve(blocks: gr.Blocks, host: str, port: int | None) -> None:
    """Serve the page until Ctrl-C, at an IPv4 address."""
    middleware = [Middleware(PolicyMiddleware)]
    if is_local(host):  # or a web site could reach it by a name of its own that leads to this machine
        middleware.append(Middleware(TrustedHostMiddleware, allowed_hosts=[*LOCAL, host]))
    theme = gr.themes.Base(font=FONTS, font_mono=["ui-monospace", "monospace"], radius_size="sm")
    _, url, _ = blocks.launch(
        server_name=host,
        server_port=port,
        share=False,
        quiet=True,
        prevent_thread_lock=True,
        show_error=False,
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        max_file_size=MOST_BYTES,
        state_session_capacity=100,
        theme=theme,
        css_paths=Path(__file__).with_name("page.css"),
        app_kwargs={"middleware": middleware, "docs_url": None, "redoc_url": None, "openapi_url": None},
    )
    print(f"open {url} in a browser; Ctrl-C ends it", flush=True)
    signal(SIGTERM, default_int_handler)  # so that what was uploaded is removed then, too
    try:
        Event().wait()
    except KeyboardInterrupt:
        blocks.close(verbose=False)
