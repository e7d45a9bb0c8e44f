"""Who may speak to a server that asks for no password: pages of its own, on this machine."""

from urllib.parse import urlsplit

LOCAL = ("127.0.0.1", "localhost")


class OwnPages:
    """Refuses what another site's page sends here: a foreign name of this machine (a name that was turned to it), or a foreign origin."""

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        if scope["type"] == "http" and not self.is_own({k.decode("latin-1"): v.decode("latin-1") for k, v in scope["headers"]}):
            await send({"type": "http.response.start", "status": 403, "headers": [(b"content-type", b"text/plain")]})
            await send({"type": "http.response.body", "body": b"this server answers its own pages on this machine alone"})
            return
        await self.app(scope, receive, send)

    @staticmethod
    def is_own(headers):
        host, origin = headers.get("host", ""), headers.get("origin")
        return host.partition(":")[0] in LOCAL and (origin is None or urlsplit(origin).netloc == host)
