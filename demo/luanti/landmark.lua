-- A world that is written all the time, and that tells at each start what only its map knows.
--
-- At its first start it puts up a sign with random words. From then on it changes ten nodes a
-- second, and counts the changes on the sign, so that the count is in the map, too. It tells the
-- count when it stops, and again when it starts.

local place = { x = 0, y = 20, z = 0 }
local reach = 80
local change_every = 0.1
local blocks = { "default:stone", "default:dirt", "default:wood", "default:glass" }
-- A file of its own: what the engine keeps for a mod it writes some seconds later, and a backup that
-- is made before that would count the start as the one before.
local starts_file = core.get_worldpath() .. "/starts"
local changes = nil

local function random_words()
    local bytes = SecureRandom():next_bytes(8)
    return (bytes:gsub(".", function(byte)
        return ("%02x"):format(byte:byte())
    end))
end

local function put_up_sign()
    core.set_node(place, { name = "default:sign_wall_wood" })
    core.get_meta(place):set_string("text", random_words())
end

local function change()
    local at = vector.add(place, {
        x = math.random(-reach, reach),
        y = math.random(reach / 2, reach),
        z = math.random(-reach, reach),
    })
    core.load_area(place)
    core.load_area(at)
    core.set_node(at, { name = blocks[math.random(#blocks)] })
    changes = changes + 1
    core.get_meta(place):set_int("changes", changes)
    core.after(change_every, change)
end

local function count_start()
    local file = io.open(starts_file)
    local starts = (file and file:read("*n") or 0) + 1
    if file then
        file:close()
    end
    core.safe_file_write(starts_file, tostring(starts))
    return starts
end

local function tell()
    local starts = count_start()
    if starts == 1 then
        put_up_sign()
    end
    local sign = core.get_meta(place)
    changes = sign:get_int("changes")
    core.log("action", ("[landmark] start %d, seed %s, %s reads %s, %d changes"):format(
        starts,
        core.get_mapgen_setting("seed"),
        core.get_node(place).name,
        sign:get_string("text"),
        changes
    ))
    change()
end

local function emerged(_, _, remaining)
    if remaining == 0 then
        tell()
    end
end

core.register_on_mods_loaded(function()
    core.log("action", "[landmark] the server is called " .. core.settings:get("server_name"))
    core.after(0, function()
        local from, to = vector.subtract(place, reach), vector.add(place, reach)
        core.emerge_area(from, to, emerged)
    end)
end)

core.register_on_shutdown(function()
    if changes then
        core.log("action", ("[landmark] stop, %d changes"):format(changes))
    end
end)
