package stream

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"regexp"
	"strings"
	"testing"
)

// The package comment says how a record goes; each Type.method in it must be there.
func TestDocNamesWhatIsThere(t *testing.T) {
	text, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	files, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	there := make(map[string]bool)
	fset := token.NewFileSet()
	for _, entry := range files {
		if !strings.HasSuffix(entry.Name(), ".go") || strings.HasSuffix(entry.Name(), "_test.go") {
			continue
		}
		f, err := parser.ParseFile(fset, entry.Name(), nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(f, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.FuncDecl:
				if n.Recv != nil {
					recv := n.Recv.List[0].Type
					if star, ok := recv.(*ast.StarExpr); ok {
						recv = star.X
					}
					there[recv.(*ast.Ident).Name+"."+n.Name.Name] = true
				}
			case *ast.TypeSpec:
				if it, ok := n.Type.(*ast.InterfaceType); ok {
					for _, m := range it.Methods.List {
						there[n.Name.Name+"."+m.Names[0].Name] = true
					}
				}
			}
			return true
		})
	}
	named := regexp.MustCompile(`\b[A-Za-z]+\.[A-Za-z]+\b`).FindAllString(string(text), -1)
	found := 0
	for _, name := range named {
		if name == "credit.go" {
			continue
		}
		found++
		if !there[name] {
			t.Errorf("the package comment names %s, which is not there", name)
		}
	}
	if found < 15 {
		t.Errorf("the package comment names %d methods; the path of a record has more", found)
	}
}
