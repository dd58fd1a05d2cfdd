// Parses T-SQL with Microsoft's own grammar: statements in a file, separated by lines of ===.
// Prints each error with the beginning of its statement; the exit status is 1 if there was one.
using System;
using System.IO;
using Microsoft.SqlServer.Management.SqlParser.Parser;

class Program
{
    static int Main(string[] arguments)
    {
        var options = new ParseOptions("GO", true);
        int statements = 0, errors = 0;
        var separator = new[] { "\n===\n" };
        foreach (var statement in File.ReadAllText(arguments[0])
            .Split(separator, StringSplitOptions.RemoveEmptyEntries))
        {
            statements++;
            foreach (var error in Parser.Parse(statement, options).Errors)
            {
                errors++;
                var begin = statement.Replace("\n", " ");
                Console.WriteLine(error.Message + " <- " + begin.Substring(0, Math.Min(150, begin.Length)));
            }
        }
        Console.WriteLine(statements + " statements, " + errors + " errors");
        return errors == 0 ? 0 : 1;
    }
}
