package node

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
)

func TestAdvertised(t *testing.T) {
	any4, any6 := netip.MustParseAddrPort("0.0.0.0:7411"), netip.MustParseAddrPort("[::]:7411")
	loop, lan := netip.MustParseAddrPort("127.0.0.1:7411"), netip.MustParseAddrPort("10.0.0.5:7411")
	for _, tt := range []struct {
		name      string
		advertise string
		join      []string
		bound     netip.AddrPort
		want      string // or the end of the error
	}{
		{"bound to one address", "", nil, lan, "10.0.0.5:7411"},
		{"bound to loopback, alone", "", nil, loop, "127.0.0.1:7411"},
		{"bound to loopback, others there too", "", []string{"127.0.0.1:7412", "localhost:7413"}, loop, "127.0.0.1:7411"},
		{"the way to the first seed", "", []string{"127.0.0.1:7412"}, any6, "127.0.0.1:7411"},
		{"a host", "10.0.0.9", nil, any4, "10.0.0.9:7411"},
		{"a host and a port", "10.0.0.9:17411", nil, any4, "10.0.0.9:17411"},
		{"a name", "localhost:17411", nil, any4, "127.0.0.1:17411"},
		{"IPv6", "fd00::9", nil, any6, "[fd00::9]:7411"},
		{"IPv6 and a port", "[fd00::9]:17411", nil, any6, "[fd00::9]:17411"},
		{"bound to loopback, a seed elsewhere", "", []string{"127.0.0.1:7412", "10.0.0.1:7411"}, loop,
			"--listen 127.0.0.1:7411: 10.0.0.1:7411, on another machine, cannot send there: give --advertise an address that it reaches"},
		{"loopback for a seed elsewhere", "localhost", []string{"10.0.0.1:7411"}, any4,
			"--advertise 127.0.0.1:7411: 10.0.0.1:7411, on another machine, cannot send there: give --advertise an address that it reaches"},
		{"no address", "0.0.0.0", nil, any4, "--advertise 0.0.0.0:7411: others cannot send there: give --advertise an address of this machine"},
		{"no port", "10.0.0.9:http", nil, any4, "--advertise 10.0.0.9:http: a port is a number from 1 to 65535"},
		{"no name", "no such host", nil, any4, "--advertise no such host: want HOST or HOST:PORT: lookup no such host: no such host"},
	} {
		got, err := advertised(Config{Advertise: tt.advertise, Join: tt.join}, tt.bound)
		if err != nil {
			got = err.Error()
		}
		if got != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, got, tt.want)
		}
	}
	// Whatever network this machine has, there is an address.
	if got, err := advertised(Config{}, any6); err != nil || netip.MustParseAddrPort(got).Addr().IsUnspecified() {
		t.Errorf("bound to all addresses, alone: %s, %v", got, err)
	}
}

func TestPortInUse(t *testing.T) {
	conn, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	port := conn.LocalAddr().(*net.UDPAddr).Port
	_, err = New(Config{Listen: conn.LocalAddr().String()})
	want := fmt.Sprintf("UDP port %d is in use by pid %d (", port, os.Getpid())
	if err == nil || !strings.HasPrefix(err.Error(), want) || !strings.Contains(err.Error(), "choose another with --listen") {
		t.Errorf("New: %v, want %q and what to do", err, want)
	}
	if who := portHolder(0); who != "" {
		t.Errorf("port 0 is in use%s", who)
	}
	if _, err := New(Config{Listen: "192.0.2.1:7411"}); err == nil || err.Error() != "--listen 192.0.2.1:7411: this machine does not have that address" {
		t.Errorf("New: %v", err)
	}
}
