"""Makes `twistd wingsd` known to Twisted; everything else is in wingsd.tap."""

from twisted.application.service import ServiceMaker

wingsd = ServiceMaker("wingsd", "wingsd.tap", "A node daemon for game servers.", "wingsd")
