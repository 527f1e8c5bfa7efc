package sim

import "time"

// bandwidthFault limits what each port sends, to all together: packets wait for the ones before
// them, and one that finds the queue full is lost (drop-tail).
type bandwidthFault struct {
	bytesPerSecond float64
	queueBytes     int
	free           map[string]time.Duration // when a port's line will be free
}

func newBandwidthFault(bytesPerSecond float64, queueBytes int) *bandwidthFault {
	return &bandwidthFault{bytesPerSecond, queueBytes, make(map[string]time.Duration)}
}

func (b *bandwidthFault) apply(f *fate) {
	start := max(b.free[f.from], f.now)
	if (start-f.now).Seconds()*b.bytesPerSecond+float64(f.bytes) > float64(b.queueBytes) {
		f.lost = "bandwidth"
		return
	}
	end := start + time.Duration(float64(f.bytes)/b.bytesPerSecond*float64(time.Second))
	b.free[f.from] = end
	f.delay += end - f.now
}
