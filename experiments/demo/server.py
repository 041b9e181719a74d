"""How the page is served: to this machine's browser, with nothing from elsewhere."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path
from signal import SIGTERM, default_int_handler, signal
from threading import Event

import gradio as gr
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from experiments.demo.answers import MOST_BYTES

LOCAL = ("127.0.0.1", "localhost")
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' blob:; font-src 'self' data:; worker-src 'self' blob:; "
    "connect-src 'self' data: blob:; frame-ancestors 'none'; form-action 'self'; base-uri 'self'"
)
"""What the browser may load for the page: nothing from other hosts."""
FORM_BYTES = 10_000
"""Of an upload beside the picture."""
FONTS = ["system-ui", "sans-serif"]


class PolicyMiddleware:
    """Sends the policy with every response, and refuses what the page itself would not ask for."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_policy(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = [(b"content-security-policy", POLICY.encode()), (b"referrer-policy", b"no-referrer")]
                message = {**message, "headers": [*message["headers"], *headers]}
            await send(message)

        app = _refusal(scope["method"], Headers(scope=scope)) if scope["type"] == "http" else None
        await (app or self.app)(scope, receive, send_with_policy)


def _refusal(method: str, headers: Headers) -> Response | None:
    """The answer to a request of another site's page, which may upload files here without asking first, and to one
    that is too large."""
    origin, site = headers.get("origin"), headers.get("sec-fetch-site", "none")
    is_foreign = origin is not None and origin.partition("://")[2] != headers.get("host")
    if is_foreign or (method not in ("GET", "HEAD") and site not in ("same-origin", "none")):  # a link may lead here
        return PlainTextResponse("for this page alone", 403)
    if int(headers.get("content-length", 0)) > MOST_BYTES + FORM_BYTES:
        return PlainTextResponse(f"more than {MOST_BYTES / 1e6:.0f} MB", 413)
    return None


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
