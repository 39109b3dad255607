"""Whether a server can be reached, asked before libraries try for minutes."""

import socket
import urllib.parse
import urllib.request

# Seconds in which a server must take the connection.
_PATIENCE = 5.0


def unreachable(address: str) -> str:
    """Returns why the server of an http(s) address cannot be reached; '' if it can.

    Where a proxy is set for it (HTTPS_PROXY and so on), it is the proxy that is asked.

    Args:
      address: of a file, or of the server alone.
    """
    url = urllib.parse.urlsplit(address)
    proxy = urllib.request.getproxies().get(url.scheme)
    if proxy and not urllib.request.proxy_bypass(url.netloc):
        url = urllib.parse.urlsplit(proxy if '://' in proxy else f'http://{proxy}')
    port = url.port or (443 if url.scheme == 'https' else 80)
    try:
        socket.create_connection((url.hostname, port), _PATIENCE).close()
    except OSError as error:
        reason = error.strerror or str(error)
        return f'{url.hostname} cannot be reached ({reason}). Is this machine offline?'
    return ''
