package gossip

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"
)

func testTransport(t *testing.T) *transport {
	return newTransport(&lanPort{lan: newLAN(t)}, testSeal(t, 1), netip.MustParseAddrPort("10.0.0.1:7411"))
}

func TestStreamsAreBounded(t *testing.T) {
	t.Run("bytes", func(t *testing.T) {
		tr := testTransport(t)
		ours, theirs := net.Pipe()
		s := tr.track(ours)
		go func() {
			defer theirs.Close()
			for b := make([]byte, 1<<16); ; {
				if _, err := theirs.Write(b); err != nil {
					return
				}
			}
		}()
		n, err := io.Copy(io.Discard, s)
		if n != streamBytesMax || !errors.Is(err, errStreamLong) {
			t.Errorf("read %d bytes, %v; want %d and %v", n, err, streamBytesMax, errStreamLong)
		}
		s.Close()
	})
	t.Run("compressed", func(t *testing.T) {
		tr := testTransport(t)
		ours, theirs := net.Pipe()
		s := tr.track(ours)
		go theirs.Write([]byte{typeCompress, 1, 2})
		if _, err := s.Read(make([]byte, 10)); !errors.Is(err, errCompressed) {
			t.Errorf("read: %v, want %v", err, errCompressed)
		}
	})
	t.Run("at once", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			tr := testTransport(t)
			served := make(chan net.Conn)
			handle := func() net.Conn {
				ours, theirs := net.Pipe()
				go tr.handleStream(theirs)
				go func() {
					select {
					case c := <-tr.streams:
						served <- c
					case <-time.After(2 * streamWait):
					}
				}()
				return ours
			}
			var open []net.Conn
			for range streamsAtOnce {
				handle()
				open = append(open, <-served)
			}
			waiting := handle()
			synctest.Wait()
			select {
			case <-served:
				t.Fatal("one stream too many is served")
			default:
			}
			open[0].Close()
			(<-served).Close()
			waiting.Close()

			synctest.Wait()
			for len(tr.turns) < streamsAtOnce {
				handle()
				<-served
			}
			late := handle()
			if _, err := late.Read(make([]byte, 1)); err != io.EOF {
				t.Errorf("a stream that waited too long reads %v, want EOF", err)
			}
			time.Sleep(3 * streamWait)
			tr.close()
		})
	})
}

func TestPacketsBeyondTheQueueAreLost(t *testing.T) {
	tr := testTransport(t)
	p := tr.seal.close([]byte{0})
	for range packetsWaiting + 10 {
		tr.handlePacket(p, nil)
	}
	if got := len(tr.packets); got != packetsWaiting {
		t.Errorf("%d packets wait, want %d", got, packetsWaiting)
	}
}
