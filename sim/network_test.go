package sim

import (
	"context"
	"fmt"
	"math"
	"net"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// wire is two ports on a network, in a bubble.
type wire struct {
	t    *testing.T
	net  *network
	a, b *port
}

// onWire runs f with a network under faults that starts at its clock's 0.
func onWire(t *testing.T, seed uint64, f func(w *wire), faults ...fault) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &wire{t: t, net: newNetwork(seed)}
		w.a = w.net.listen("a", netip.MustParseAddrPort("10.0.0.1:7411"))
		w.b = w.net.listen("b", netip.MustParseAddrPort("10.0.0.2:7411"))
		for _, x := range faults {
			w.net.impose(x, scope{})
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- w.net.run(ctx) }()
		f(w)
		cancel()
		<-done
	})
}

// arrival is a packet that came, by the number in it.
type arrival struct {
	number int
	at     time.Duration
}

// send sends n packets of size bytes from a to b, apart from each other, and returns what came
// within a second after the last.
func (w *wire) send(n, size int, apart time.Duration) (came []arrival) {
	w.t.Helper()
	done := make(chan struct{})
	_ = w.b.SetReadDeadline(time.Now().Add(time.Duration(n)*apart + time.Second))
	go func() {
		defer close(done)
		buf := make([]byte, 2000)
		for {
			got, _, err := w.b.ReadFrom(buf)
			if err != nil {
				return
			}
			var number int
			fmt.Sscanf(string(buf[:min(got, 8)]), "%08d", &number)
			came = append(came, arrival{number, w.net.now()})
		}
	}()
	for i := range n {
		packet := append(fmt.Appendf(nil, "%08d", i), make([]byte, size-8)...)
		if _, err := w.a.WriteTo(packet, w.b.LocalAddr()); err != nil {
			w.t.Error(err)
		}
		time.Sleep(apart)
	}
	<-done
	return came
}

// numbers are those of the arrivals, in order.
func numbers(came []arrival) (ns []int) {
	for _, a := range came {
		ns = append(ns, a.number)
	}
	return ns
}

func TestNetworkDelivers(t *testing.T) {
	onWire(t, 1, func(w *wire) {
		came := w.send(100, 1000, time.Millisecond)
		if len(came) != 100 || !slices.IsSorted(numbers(came)) {
			t.Fatalf("%d packets came, in order: %v", len(came), slices.IsSorted(numbers(came)))
		}
		for i, a := range came {
			late := a.at - time.Duration(i)*time.Millisecond
			if late < 5*time.Millisecond || late > 7*time.Millisecond+grain {
				t.Fatalf("packet %d took %v, want 5 to 7 ms", i, late)
			}
		}
	}, delayFault{5 * time.Millisecond, 2 * time.Millisecond})
}

// Each fault does to a share of packets what it says, within three sigma.
func TestFaultsMeetTheirShare(t *testing.T) {
	const n = 4000
	slack := func(share float64) float64 { return 3 * math.Sqrt(share*(1-share)/n) }
	onWire(t, 1, func(w *wire) {
		if lost := 1 - float64(len(w.send(n, 100, time.Millisecond)))/n; math.Abs(lost-0.05) > slack(0.05) {
			t.Errorf("%.3f lost, want 0.05", lost)
		}
	}, lossFault{0.05})
	onWire(t, 1, func(w *wire) {
		came := numbers(w.send(n, 100, time.Millisecond))
		runs := 0
		for i := 1; i < len(came); i++ {
			if came[i] != came[i-1]+1 {
				runs++
			}
		}
		lost := float64(n - len(came))
		if share := lost / n; share < 0.05 || share > 0.2 {
			t.Errorf("bursts: %.3f lost, want about 0.1", share)
		}
		if mean := lost / float64(runs); mean < 12 || mean > 32 {
			t.Errorf("bursts of %.1f in the mean, want about 20", mean)
		}
	}, newBurstFault(0.1, 20))
	onWire(t, 1, func(w *wire) {
		came := numbers(w.send(n, 100, time.Millisecond))
		if twice := float64(len(came)-n) / n; math.Abs(twice-0.2) > slack(0.2) {
			t.Errorf("%.3f twice, want 0.2", twice)
		}
	}, duplicateFault{0.2})
	onWire(t, 1, func(w *wire) {
		came := numbers(w.send(n, 100, time.Millisecond))
		overtaken := 0
		for i := 1; i < len(came); i++ {
			if came[i] < came[i-1] {
				overtaken++
			}
		}
		if len(came) != n || overtaken < n/10 || overtaken > n/4 {
			t.Errorf("%d came, %d of them after later ones, want up to a quarter", len(came), overtaken)
		}
	}, delayFault{time.Millisecond, 0}, reorderFault{0.25, 10 * time.Millisecond})
}

func TestBandwidthAndItsQueue(t *testing.T) {
	// 100 KiB a second take packets of 1 KiB as they come 100 a second ...
	onWire(t, 1, func(w *wire) {
		if came := w.send(100, 1024-ipBytes, 10*time.Millisecond); len(came) != 100 {
			t.Errorf("%d of 100 packets came at the line's own pace", len(came))
		}
	}, newBandwidthFault(100<<10, 10<<10))
	// ... and of 100 at once those that the queue holds, one every 10 ms.
	onWire(t, 1, func(w *wire) {
		came := w.send(100, 1024-ipBytes, 0)
		if len(came) != 10 {
			t.Fatalf("%d packets came of a burst, want the queue's 10", len(came))
		}
		if took := came[9].at; took != 100*time.Millisecond {
			t.Errorf("the burst took %v, want 100 ms", took)
		}
	}, newBandwidthFault(100<<10, 10<<10))
}

func TestMTU(t *testing.T) {
	onWire(t, 1, func(w *wire) {
		if came := w.send(1, 1280, 0); len(came) != 1 {
			t.Error("a packet of 1308 bytes did not come")
		}
		if came := w.send(1, 1281, 0); len(came) != 0 {
			t.Error("a packet of 1309 bytes came")
		}
	}, mtuFault{1308})
}

func TestCutsAndPartitions(t *testing.T) {
	onWire(t, 1, func(w *wire) {
		for _, c := range []struct {
			name string
			f    fault
			s    scope
			want int
		}{
			{"this way", cutFault{}, scope{from: []string{"a"}, to: []string{"b"}}, 0},
			{"other way", cutFault{}, scope{from: []string{"b"}, to: []string{"a"}}, 1},
			{"both ways", cutFault{}, scope{from: []string{"b"}, to: []string{"a"}, both: true}, 0},
			{"to nobody", cutFault{}, scope{from: []string{"a"}, to: []string{}}, 1},
			{"apart", newPartitionFault([][]string{{"a"}, {"b"}}), scope{}, 0},
			{"together", newPartitionFault([][]string{{"a", "b"}, {"c"}}), scope{}, 1},
			{"one in none", newPartitionFault([][]string{{"a"}, {"c"}}), scope{}, 1},
		} {
			lift := w.net.impose(c.f, c.s)
			if came := w.send(1, 100, 0); len(came) != c.want {
				t.Errorf("%s: %d packets came, want %d", c.name, len(came), c.want)
			}
			lift()
			if came := w.send(1, 100, 0); len(came) != 1 {
				t.Errorf("%s: nothing came after it was lifted", c.name)
			}
		}
	})
}

// A frozen node neither hears nor is heard, and finds what came when it goes on.
func TestFreeze(t *testing.T) {
	onWire(t, 1, func(w *wire) {
		w.b.freeze()
		if came := w.send(3, 100, 0); len(came) != 0 {
			t.Errorf("%d packets were read by a frozen node", len(came))
		}
		w.b.thaw()
		if came := w.send(1, 100, 0); len(came) != 4 {
			t.Errorf("%d packets were read after that, want 4", len(came))
		}
		w.a.freeze()
		if came := w.send(2, 100, 0); len(came) != 0 {
			t.Errorf("%d packets of a frozen node came", len(came))
		}
		w.a.thaw()
		if came := w.send(1, 100, 0); len(came) != 3 {
			t.Errorf("%d packets came after that, want 3", len(came))
		}
	})
}

// A crashed port hears nothing, not even what was under way; its address can be taken again.
func TestCrashAndRestart(t *testing.T) {
	onWire(t, 1, func(w *wire) {
		old := w.b
		old.crash()
		if came := w.send(2, 100, 0); len(came) != 0 {
			t.Errorf("%d packets came to a crashed port", len(came))
		}
		w.b = w.net.listen("b", old.at)
		if came := w.send(2, 100, 0); len(came) != 2 {
			t.Errorf("%d packets came after the restart, want 2", len(came))
		}
		if _, err := old.WriteTo([]byte("old"), w.a.LocalAddr()); err != nil {
			t.Errorf("a crashed port must not notice: %v", err)
		}
		if err := old.Close(); err != nil {
			t.Error(err)
		}
		if _, err := old.WriteTo([]byte("old"), w.a.LocalAddr()); err != net.ErrClosed {
			t.Errorf("write after close: %v", err)
		}
		if _, _, err := old.ReadFrom(make([]byte, 10)); err != net.ErrClosed {
			t.Errorf("read after close: %v", err)
		}
	}, delayFault{time.Millisecond, 0})
}

// The fate of a packet follows from seed, pair and number alone: what others send meanwhile does
// not change it, another seed does.
func TestFateIsKeyed(t *testing.T) {
	fates := func(seed uint64, others bool) (came []int) {
		onWire(t, seed, func(w *wire) {
			if others {
				c := w.net.listen("c", netip.MustParseAddrPort("10.0.0.3:7411"))
				for range 57 {
					_, _ = c.WriteTo(make([]byte, 100), w.a.LocalAddr())
					_, _ = w.b.WriteTo(make([]byte, 100), c.LocalAddr())
				}
			}
			came = numbers(w.send(300, 100, time.Millisecond))
		}, lossFault{0.3}, reorderFault{0.2, 5 * time.Millisecond})
		return came
	}
	if a, b := fates(1, false), fates(1, true); !slices.Equal(a, b) {
		t.Error("what others send changed the fate of packets")
	}
	if a, b := fates(1, false), fates(2, false); slices.Equal(a, b) {
		t.Error("another seed gave the same fates")
	}
}

// A port may be closed while somebody sends to it and reads from it.
func TestCloseWhileSending(t *testing.T) {
	for range 50 {
		onWire(t, 1, func(w *wire) {
			stopped := make(chan struct{}, 2)
			go func() {
				for i := range 100 {
					_, _ = w.a.WriteTo(fmt.Appendf(nil, "%d", i), w.b.LocalAddr())
				}
				stopped <- struct{}{}
			}()
			go func() {
				for {
					if _, _, err := w.b.ReadFrom(make([]byte, 100)); err != nil {
						stopped <- struct{}{}
						return
					}
				}
			}()
			_ = w.b.Close()
			<-stopped
			<-stopped
		})
	}
}
