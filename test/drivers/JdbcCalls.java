// Executes calls with PostgreSQL's JDBC driver, as test/t/066_drivers.pl describes them: java JdbcCalls.java HOST PORT USER <CALLS

import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.math.BigDecimal;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.SQLException;
import java.time.OffsetDateTime;
import org.postgresql.util.PGInterval;

public class JdbcCalls
{
	static byte[] bytes(String hexadecimal)
	{
		byte[] bytes = new byte[hexadecimal.length() / 2];
		for (int i = 0; i < bytes.length; i++)
			bytes[i] = (byte) Integer.parseInt(hexadecimal.substring(2 * i, 2 * i + 2), 16);
		return bytes;
	}

	static void set(PreparedStatement statement, int i, String kind, String value) throws SQLException
	{
		switch (kind)
		{
			case "bytes": statement.setBytes(i, bytes(value)); break;
			case "number": statement.setBigDecimal(i, new BigDecimal(value)); break;
			case "integer": statement.setLong(i, Long.parseLong(value)); break;
			case "seconds": statement.setObject(i, new PGInterval(value + " seconds")); break;
			case "time": statement.setObject(i, OffsetDateTime.parse(value)); break;
			default: statement.setString(i, value);
		}
	}

	public static void main(String[] args) throws Exception
	{
		BufferedReader in = new BufferedReader(new InputStreamReader(System.in, "UTF-8"));
		String url = "jdbc:postgresql://" + args[0] + ":" + args[1] + "/postgres";
		try (Connection connection = DriverManager.getConnection(url, args[2], ""))
		{
			for (String line; (line = in.readLine()) != null; )
			{
				String[] fields = line.split("\t");
				try (PreparedStatement statement = connection.prepareStatement(fields[0].replaceAll("\\$\\d+", "?")))
				{
					for (int i = 1; i < fields.length; i++)
						set(statement, i, fields[i].split(":", 2)[0], fields[i].split(":", 2)[1]);
					statement.execute();
					System.out.println("ok");
				}
				catch (SQLException e)
				{
					System.out.println(e.getSQLState() + " " + e.getMessage().split("\n")[0]);
				}
			}
		}
	}
}
