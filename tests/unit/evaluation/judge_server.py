"""A local server that speaks the OpenAI protocol, for tests of judges."""

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer


class Server:
    """Answers each request with the next of `replies`: a text, a status, or a function of it."""

    def __init__(self):
        self.replies, self.seen, self.paths, self.headers = [], [], [], []
        self.elsewhere = "http://127.0.0.1:9/elsewhere"
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.seen.append(body)
                outer.paths.append(self.path)
                outer.headers.append(dict(self.headers))
                reply = outer.replies.pop(0) if outer.replies else "T"
                if callable(reply):
                    reply = reply(body["messages"][1]["content"])
                status = reply if isinstance(reply, int) else 200
                said = {"error": f"no: {self.headers.get('Authorization')}"}
                if status == 200:
                    said = {"choices": [{"message": {"role": "assistant", "content": reply}}]}
                content = json.dumps(said).encode()
                self.send_response(status)
                if status // 100 == 3:
                    self.send_header("Location", outer.elsewhere)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def do_GET(self):
                outer.paths.append(self.path)
                outer.headers.append(dict(self.headers))
                self.send_error(404)

            def log_message(self, *args):
                pass

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def stop(self):
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
