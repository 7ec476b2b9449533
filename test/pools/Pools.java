// Do connection pools keep their PostgreSQL connection while NATS is away? test/pools/run starts this, with the JDBC URL, and
// says on standard input when it has stopped NATS and when it has started it again.

import com.zaxxer.hikari.HikariDataSource;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.sql.Connection;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Statement;
import java.util.LinkedHashMap;
import java.util.Map;
import javax.sql.DataSource;
import org.apache.commons.dbcp2.BasicDataSource;

public class Pools
{
	static final int TRANSACTIONS = 4;
	static final Map<String, DataSource> pools = new LinkedHashMap<>();
	static final Map<String, Integer> backends = new LinkedHashMap<>();
	static boolean failed = false;

	static void check(boolean condition, String what)
	{
		System.out.println((condition ? "ok - " : "not ok - ") + what);
		failed |= !condition;
	}

	// One transaction that publishes. Returns its SQLSTATE, "00000" when it has committed.
	static String insert(String pool) throws SQLException
	{
		try (Connection connection = pools.get(pool).getConnection(); Statement statement = connection.createStatement())
		{
			connection.setAutoCommit(false);
			try (ResultSet row = statement.executeQuery("SELECT pg_backend_pid()"))
			{
				row.next();
				int before = backends.getOrDefault(pool, row.getInt(1));
				check(before == row.getInt(1), pool + ": backend " + row.getInt(1));
				backends.put(pool, row.getInt(1));
			}
			try
			{
				statement.executeUpdate("INSERT INTO orders DEFAULT VALUES");
				connection.commit();
				return "00000";
			}
			catch (SQLException error)
			{
				connection.rollback();
				return error.getSQLState();
			}
		}
	}

	static void insertInto(String state, String sqlstate, int count) throws SQLException
	{
		for (String pool : pools.keySet())
			for (int i = 0; i < count; i++)
			{
				String found = insert(pool);
				check(found.equals(sqlstate), pool + ": " + state + ": " + found);
			}
	}

	static void ask(BufferedReader input, String request) throws Exception
	{
		System.out.println(request);
		if (input.readLine() == null)
			System.exit(1);
	}

	public static void main(String[] arguments) throws Exception
	{
		BufferedReader input = new BufferedReader(new InputStreamReader(System.in));

		HikariDataSource hikari = new HikariDataSource();
		hikari.setJdbcUrl(arguments[0]);
		hikari.setMaximumPoolSize(1);
		pools.put("HikariCP", hikari);

		BasicDataSource dbcp = new BasicDataSource();
		dbcp.setUrl(arguments[0]);
		dbcp.setMaxTotal(1);
		dbcp.setTestOnBorrow(true);
		dbcp.setFastFailValidation(true);
		pools.put("DBCP2", dbcp);

		insertInto("NATS is there", "00000", 1);
		ask(input, "stop");
		insertInto("NATS is away", "58000", TRANSACTIONS);
		ask(input, "start");
		insertInto("NATS is back", "00000", 1);
		System.exit(failed ? 1 : 0);
	}
}
