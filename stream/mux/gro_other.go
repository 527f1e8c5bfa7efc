//go:build !linux

package mux

import "net"

// coalesce returns conn: only Linux reads several packets at once.
func coalesce(conn net.PacketConn, _ func(b []byte, from net.Addr)) net.PacketConn { return conn }
